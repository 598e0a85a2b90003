"""From a training run to a model directory that encodes and decodes.

`pipeline` reads the run and writes the model; `calibration` fits the integer prior and the frequency tables to files,
`residuals` those of predicted frames.

Import `export` from `pipeline`: it is the whole export. `calibrate` refits a directory that exists.
"""
