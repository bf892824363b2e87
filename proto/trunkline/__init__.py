"""The contract of Trunkline: generated messages and stubs, and the few modules that give them meaning in Python."""
