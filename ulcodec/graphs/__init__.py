"""Models as ONNX graphs, run by onnxruntime without torch.

`graph_files` finds the graphs of a model directory and opens them; `graph_prior` codes files with those of the prior.
`ulcodec.codec.graph_networks` runs the float networks, `ulcodec.export.graphs` writes the files.
"""
