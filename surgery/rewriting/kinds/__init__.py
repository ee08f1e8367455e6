"""The kinds of edits, one file each: what an edit of a kind is, how it is planned, proven, made and distilled."""
