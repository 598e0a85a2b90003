"""From a training run to a model directory that encodes and decodes, and from there to ONNX graphs and packages.

`pipeline` reads the run and writes the model; `calibration` fits the integer prior and the frequency tables to files,
`residuals` those of predicted frames. `graphs` writes the networks of a model directory for other runtimes;
`exact_graphs` has the integer networks in float32. `deployment` makes directories for these runtimes; `moved_graphs`
takes the graphs that a model has. `packages` builds wheels of models.

Import `export` from `pipeline`: it is the whole export. `calibrate` refits a directory that exists. Import
`export_graphs` from `graphs`.
"""
