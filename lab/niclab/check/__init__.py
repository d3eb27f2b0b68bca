"""What is wrong with a topology or a request, before anything is built. Pure."""
