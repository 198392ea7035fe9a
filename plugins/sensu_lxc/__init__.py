"""What the plugins know about LXC containers; the only thing they share."""
