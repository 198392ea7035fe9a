"""What the plugins know about LXC containers; the only thing they share."""

import gc

# A check lives for 20 ms, and would spend one of them on looking for garbage, of which its imports leave none. Whoever
# runs on turns it on again (plugin.Check).
gc.disable()
