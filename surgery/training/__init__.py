"""Teaching a student: data, noise, distillation, finetuning and checkpoints."""
