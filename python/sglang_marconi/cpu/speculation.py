"""What operations say that have no version for speculative decoding on a CPU."""


def refuse_speculation(*asked: object) -> None:
    """Raise NotImplementedError if any of the arguments for speculative decoding is given."""
    if any(argument is not None and argument is not False for argument in asked):
        raise NotImplementedError("speculative decoding with recurrent state needs a GPU")
