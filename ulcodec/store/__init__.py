"""Models on disk: tensors in safetensors files, model directories, and the models that are installed.

`tensor_files` writes directories atomically, `networks` loads tensors into networks, `model_directory` reads and writes
a model, `trained_run` reads a run of stage 1 with the objective `ul`, `installed` finds installed models without torch.
No pickle anywhere.

Import `open_model`, `StoredModel` and `write_model` from `model_directory`, and `installed_models` from
`installed`. Training writes its checkpoints with `write_directory` from `tensor_files`.
"""
