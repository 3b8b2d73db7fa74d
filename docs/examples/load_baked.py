"""A baked checkpoint in plain transformers: nothing of sparkablate is imported. Usage: load_baked.py DIRECTORY"""

import sys

from transformers import AutoModelForCausalLM, AutoTokenizer

directory = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained(directory, dtype="float32")
tokenizer = AutoTokenizer.from_pretrained(directory)
print(model.config.num_hidden_layers, "layers,", model.num_parameters(), "parameters")
prompt = tokenizer("The capital of France is", return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=12, do_sample=False)[0]))
