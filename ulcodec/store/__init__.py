"""Models on disk: tensors in safetensors files, model directories, and the models that are installed.

`tensor_files` writes directories atomically, `networks` loads tensors into networks, `model_directory` reads and writes
a model, `installed` names the shipped ones without torch. No pickle anywhere.
"""
