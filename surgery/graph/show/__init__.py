"""A traced model for people: as a tree, as a drawing, and compared with another one."""
