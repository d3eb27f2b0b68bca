ip netns add fabric
ip -n fabric link set lo up
ip netns add node1
ip -n node1 link set lo up
ip netns exec node1 sysctl -qw net.ipv4.conf.all.rp_filter=0
ip netns exec node1 sysctl -qw net.ipv4.conf.default.rp_filter=0
ip netns exec node1 sysctl -qw net.ipv6.conf.default.accept_dad=0
ip netns exec node1 sysctl -qw net.ipv4.ip_forward=1
ip netns exec node1 sysctl -qw net.ipv6.conf.all.forwarding=1
ip netns add node2
ip -n node2 link set lo up
ip netns exec node2 sysctl -qw net.ipv4.conf.all.rp_filter=0
ip netns exec node2 sysctl -qw net.ipv4.conf.default.rp_filter=0
ip netns exec node2 sysctl -qw net.ipv6.conf.default.accept_dad=0
ip netns exec node2 sysctl -qw net.ipv4.ip_forward=1
ip netns exec node2 sysctl -qw net.ipv6.conf.all.forwarding=1
ip netns add ext0
ip -n ext0 link set lo up
ip netns exec ext0 sysctl -qw net.ipv4.conf.all.rp_filter=0
ip netns exec ext0 sysctl -qw net.ipv4.conf.default.rp_filter=0
ip netns exec ext0 sysctl -qw net.ipv6.conf.default.accept_dad=0
ip netns add ext1
ip -n ext1 link set lo up
ip netns exec ext1 sysctl -qw net.ipv4.conf.all.rp_filter=0
ip netns exec ext1 sysctl -qw net.ipv4.conf.default.rp_filter=0
ip netns exec ext1 sysctl -qw net.ipv6.conf.default.accept_dad=0
ip netns add gw
ip -n gw link set lo up
ip netns exec gw sysctl -qw net.ipv4.conf.all.rp_filter=0
ip netns exec gw sysctl -qw net.ipv4.conf.default.rp_filter=0
ip netns exec gw sysctl -qw net.ipv6.conf.default.accept_dad=0
ip netns exec gw sysctl -qw net.ipv4.ip_forward=1
ip netns exec gw sysctl -qw net.ipv6.conf.all.forwarding=1
ip -n fabric link add f0 address 02:02:00:00:00:00 up type bridge stp_state 0 mcast_snooping 0
ip -n fabric link add f1 address 02:02:00:00:00:01 up type bridge stp_state 0 mcast_snooping 0
ip -n fabric link add node1.eth0 address 02:01:00:00:01:00 mtu 1500 master f0 up type veth peer name cable0 address 02:08:00:00:01:00 mtu 1500 arp off netns node1
ip -n fabric link add node1.eth1 address 02:01:00:00:01:01 mtu 1500 master f1 up type veth peer name cable1 address 02:08:00:00:01:01 mtu 1500 arp off netns node1
ip -n fabric link add node2.eth0 address 02:01:00:00:02:02 mtu 1500 master f0 up type veth peer name cable2 address 02:08:00:00:02:02 mtu 1500 arp off netns node2
ip -n fabric link add node2.eth1 address 02:01:00:00:02:03 mtu 1500 master f1 up type veth peer name cable3 address 02:08:00:00:02:03 mtu 1500 arp off netns node2
ip -n fabric link add ext0.eth0 address 02:01:00:00:03:04 mtu 1500 master f0 up type veth peer name eth0 address 02:00:00:00:03:04 mtu 1500 netns ext0
ip -n fabric link add ext1.eth0 address 02:01:00:00:04:05 mtu 1500 master f1 up type veth peer name eth0 address 02:00:00:00:04:05 mtu 1500 netns ext1
ip -n fabric link add gw.p0 address 02:01:00:00:05:06 mtu 1500 master f0 up type veth peer name p0 address 02:00:00:00:05:06 mtu 1500 netns gw
ip -n fabric link add gw.p1 address 02:01:00:00:05:07 mtu 1500 master f1 up type veth peer name p1 address 02:00:00:00:05:07 mtu 1500 netns gw
ip -n node1 link set cable0 addrgenmode none
ip -n node1 link set cable0 up
ip -n node1 link add link cable0 name eth0 address 02:00:00:00:01:00 type macvlan mode private
ip -n node1 link set cable1 addrgenmode none
ip -n node1 link set cable1 up
ip -n node1 link add link cable1 name eth1 address 02:00:00:00:01:01 type macvlan mode private
ip -n node1 addr add 10.0.0.1/24 dev eth0
ip -n node1 addr add fd00:10::1/64 dev eth0 nodad
ip -n node1 link set eth0 up
ip -n node1 addr add 10.0.1.1/24 dev eth1
ip -n node1 addr add fd00:10:0:1::1/64 dev eth1 nodad
ip -n node1 link set eth1 up
ip -n node1 route add default via 10.0.0.254 dev eth0
ip -6 -n node1 route add default via fd00:10::254 dev eth0
ip -n node2 link set cable2 addrgenmode none
ip -n node2 link set cable2 up
ip -n node2 link add link cable2 name eth0 address 02:00:00:00:02:02 type macvlan mode private
ip -n node2 link set cable3 addrgenmode none
ip -n node2 link set cable3 up
ip -n node2 link add link cable3 name eth1 address 02:00:00:00:02:03 type macvlan mode private
ip -n node2 addr add 10.0.0.2/24 dev eth0
ip -n node2 addr add fd00:10::2/64 dev eth0 nodad
ip -n node2 link set eth0 up
ip -n node2 addr add 10.0.1.2/24 dev eth1
ip -n node2 addr add fd00:10:0:1::2/64 dev eth1 nodad
ip -n node2 link set eth1 up
ip -n node2 route add default via 10.0.0.254 dev eth0
ip -6 -n node2 route add default via fd00:10::254 dev eth0
ip -n ext0 addr add 10.0.0.100/24 dev eth0
ip -n ext0 addr add fd00:10::100/64 dev eth0 nodad
ip -n ext0 link set eth0 up
ip -n ext0 route add 10.244.1.0/24 via 10.0.0.1
ip -n ext0 route add 10.244.2.0/24 via 10.0.0.2
ip -6 -n ext0 route add fd00:10:244:1::/64 via fd00:10::1
ip -6 -n ext0 route add fd00:10:244:2::/64 via fd00:10::2
ip -n ext1 addr add 10.0.1.100/24 dev eth0
ip -n ext1 addr add fd00:10:0:1::100/64 dev eth0 nodad
ip -n ext1 link set eth0 up
ip -n ext1 route add 10.244.1.0/24 via 10.0.1.1
ip -n ext1 route add 10.244.2.0/24 via 10.0.1.2
ip -6 -n ext1 route add fd00:10:244:1::/64 via fd00:10:0:1::1
ip -6 -n ext1 route add fd00:10:244:2::/64 via fd00:10:0:1::2
ip -n gw addr add 10.0.0.254/24 dev p0
ip -n gw addr add fd00:10::254/64 dev p0 nodad
ip -n gw link set p0 up
ip -n gw addr add 10.0.1.254/24 dev p1
ip -n gw addr add fd00:10:0:1::254/64 dev p1 nodad
ip -n gw link set p1 up
