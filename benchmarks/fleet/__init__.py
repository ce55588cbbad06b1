"""How much a fleet of workers computes, finds and sends, by how they share what they know."""
