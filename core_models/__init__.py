"""The work itself: faces, sound, motion, networks, renderers. Knows nothing of ComfyUI or of nodes."""
