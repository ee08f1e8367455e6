"""What a generated forward is and runs on: recordings, guards, state and the code that is emitted."""
