ip netns add fabric
ip -n fabric link set lo up
ip netns add node-of-the-second-rack
ip -n node-of-the-second-rack link set lo up
ip netns exec node-of-the-second-rack sysctl -qw net.ipv4.conf.all.rp_filter=0
ip netns exec node-of-the-second-rack sysctl -qw net.ipv4.conf.default.rp_filter=0
ip netns exec node-of-the-second-rack sysctl -qw net.ipv6.conf.default.accept_dad=0
ip netns exec node-of-the-second-rack sysctl -qw net.ipv4.ip_forward=1
ip netns exec node-of-the-second-rack sysctl -qw net.ipv6.conf.all.forwarding=1
ip -n fabric link add f0 address 02:02:00:00:00:00 up type bridge stp_state 0 mcast_snooping 0
ip -n fabric link add p.0 address 02:01:00:00:01:00 mtu 9000 master f0 up type veth peer name cable0 address 02:08:00:00:01:00 mtu 9000 arp off netns node-of-the-second-rack
ip -n fabric link add p.1 address 02:01:00:00:01:01 mtu 1500 master f0 up type veth peer name cable1 address 02:08:00:00:01:01 mtu 1500 arp off netns node-of-the-second-rack
ip -n node-of-the-second-rack link set cable0 addrgenmode none
ip -n node-of-the-second-rack link set cable0 up
ip -n node-of-the-second-rack link add link cable0 name eth0 address 02:aa:00:00:00:01 type macvlan mode private
ip -n node-of-the-second-rack link set cable1 addrgenmode none
ip -n node-of-the-second-rack link set cable1 up
ip -n node-of-the-second-rack link add link cable1 name eth1 address 02:00:00:00:01:01 type macvlan mode private
ip -n node-of-the-second-rack addr add 10.0.0.1/24 dev eth0
ip -n node-of-the-second-rack link set eth0 up
ip -n node-of-the-second-rack addr add 10.0.1.1/24 dev eth1
ip netns exec node-of-the-second-rack sysctl -qw net.ipv4.conf.eth0.rp_filter=1
ip netns exec node-of-the-second-rack sysctl -qw net.ipv6.conf.eth1.accept_ra=0
ip -n node-of-the-second-rack route add 10.9.0.0/16 nexthop via 10.0.0.2 weight 1 nexthop via 10.0.0.3 weight 2
ip -n node-of-the-second-rack rule add from 10.9.0.0/16 lookup 100 priority 32765
ip -n node-of-the-second-rack rule add from all lookup 101 priority 32764
ip -6 -n node-of-the-second-rack rule add from all lookup 102 priority 32765
