"""What libraries say and nobody who trains a model can act on is left out of the console.

Each entry is the beginning of a message, or a part of it, with why it says nothing. Warnings of the zoo's own, and all
others of its libraries, are printed as ever.
"""

import logging
import os
import warnings

_LOGGERS = (
    *("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"),
    *("lightning.fabric.utilities.seed", "lightning.pytorch.trainer.connectors.checkpoint_connector"),
)
_SAID = (
    "Seed set to",  # config.yaml has it
    "GPU available",  # the zoo says what is used
    "TPU available",
    "HPU available",
    "\U0001f4a1 Tip",  # advertisements of other products
    "`weights_only` was not set",  # of the zoo's own loading, which is safe either way
    "Restoring states from the checkpoint path",  # the zoo names the checkpoint
    "Restored all states from the checkpoint",
    "Loading `train_dataloader` to estimate",
    "`Trainer.fit` stopped: `max_steps",  # as was asked for
    "Loaded model weights from the checkpoint",
)
_WARNED = (
    r".*LeafSpec.*",  # Lightning's own use of a deprecated name of torch, once for each epoch
    r".*number of training batches \(\d+\) is smaller than the logging interval.*",
    r".*callbacks used to create the checkpoint need to be provided.*",  # records of another run
    r".*does not have many workers.*",  # data in memory are loaded fastest by the main process
    r".*Checkpoint directory .* exists and is not empty.*",  # a run that goes on
    r".*recommended to use `self\.log\(.*sync_dist=True\)`.*",  # metrics are reduced by themselves
    r".*overridden `on_before_batch_transfer` in `LightningModule`.*",  # where a task looks at its targets
    r".*module\(s\) in eval mode at the start of training.*",  # parts that are held fast
    r".*isinstance\(treespec, LeafSpec\).*",
)


class _Left(logging.Filter):
    """Drops what begins as one of the messages."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().lstrip().startswith(_SAID)


def quiet() -> None:
    """Leave these messages out, from now on."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(each, _Left) for each in logger.filters):
            logger.addFilter(_Left())
    for pattern in _WARNED:
        warnings.filterwarnings("ignore", message=pattern)
    # Lightning calls what jsonargparse is to drop one day
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    # the zoo says where an offline run is, and the address of an online one
    os.environ.setdefault("WANDB_SILENT", "true")
