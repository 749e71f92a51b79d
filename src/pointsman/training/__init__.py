"""Making the embedded router's weights. The only place where torch is imported; nothing that serves imports this."""
