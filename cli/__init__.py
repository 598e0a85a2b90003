"""The `ulcodec` command: one module per command, over the public interface of the package `ulcodec`."""
