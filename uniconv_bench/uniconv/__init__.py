"""UniConv, the method: backbone, losses, mixture, training, encoding, answering."""
