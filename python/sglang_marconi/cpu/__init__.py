"""Torch versions of the recurrent operations, so that hybrid models serve without a GPU."""


def install() -> bool:
    """Make SGLang's hybrid models run in this process on a machine without an accelerator.

    To be called by the plugin in every SGLang process before arguments are parsed. Calling it
    again does nothing. Importing this package loads neither torch nor SGLang; this call does.

    Returns:
        Whether the replacements are in place: False where torch sees an accelerator.

    Raises:
        IncompatibleSGLang: a function to be replaced is missing or has other parameters than the
            ones our version was written against. Nothing is replaced then.
    """
    from .replacements import install as install_replacements

    return install_replacements()
