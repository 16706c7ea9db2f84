"""What connects to other libraries: imported only where they are installed."""
