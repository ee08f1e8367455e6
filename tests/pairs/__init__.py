"""The rules of the library, two at a time: on each model, every pair of rules that fits."""
