"""How loud the libraries are that load, train and save models: only as loud as an error."""

import logging
import warnings


def quiet_libraries() -> None:
    """Libraries' progress bars and notices belong in no user's terminal; errors still come through."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"torch\.|transformers\.|peft\.|accelerate\.")
