"""What is known about a graph: roles, streams, layers, attention that is written out, hidden layers."""
