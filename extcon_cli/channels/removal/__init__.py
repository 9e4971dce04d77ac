"""What is dead, the plan of its removal, carrying it out, and the certificate of what was measured."""
