"""The `ulcodec` command: one module a command, over the public interface of the package `ulcodec`."""
