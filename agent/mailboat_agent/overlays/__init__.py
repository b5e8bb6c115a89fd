"""The config of this device: what people signed for its class, its site and itself."""
