"""What the plugins know about LXC containers; the only thing they share."""

import gc

# A check lives for 20 ms, and would spend one of them on looking for garbage in what it imports. plugin.Check turns it
# on again.
gc.disable()
