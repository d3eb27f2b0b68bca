"""FRR in a lab: the daemons that really speak BGP."""
