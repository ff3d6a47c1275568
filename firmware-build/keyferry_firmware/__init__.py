"""What goes onto a device: compiled modules, the read-only application image, a file system."""
