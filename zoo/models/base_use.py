"""What people do with a trained model, as methods of it: predict, keep, publish."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from datamodules.storage.images import Fit

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.features import Features, Order
    from zoo.models.base import ObjectModel
    from zoo.prediction import Prediction


class Usable:
    """The part of an `ObjectModel` that hands it to the functions of `zoo.prediction` and `zoo.sharing.hub`."""

    def predict(
        self,
        images: Any,
        *,
        batch_size: int = 32,
        image_size: int | Sequence[int] | None = None,
        fit: Fit = "stretch",
        progress: bool = False,
    ) -> "Prediction":
        """See the objects in images of any origin.

        Args:
            images: A file or a folder of files; a Pillow image; a tensor (C, H, W) or (B, C, H, W); an array (H, W),
                (H, W, C) or (B, H, W, C); or a list of any of these. Whole numbers are from 0 to 255, others from 0 to
                1. Grey images are repeated for a model of 3 channels, colours become their luma for one of 1.
            batch_size: Images that are looked at at once.
            image_size: Side in pixels, or [height, width], that images are resized to; null: what the model reads if
                that is one size, else images stay as they are.
            fit: How they are resized: `stretch` ignores proportions, `pad` keeps them, with black at two sides.
            progress: Show a bar.

        Returns:
            A `Scene` of all images, in their order, on the CPU, with `image` as the model saw it. Its `objects()` are
            plain Python, in the pixels of the images as they were given.

        Raises:
            ImageError: Something is no image, a file is damaged, or sizes differ where none is asked for.
            ValueError: The model does not take images of that size.
        """
        from zoo.prediction import predict

        return predict(
            cast("ObjectModel", self), images, batch_size=batch_size, image_size=image_size, fit=fit, progress=progress
        )

    def object_features(
        self, images: Any, *, threshold: float = 0.5, order: "Order" = "presence", **options: Any
    ) -> "Features":
        """The objects in images of any origin, as arrays for what comes after: one row for each, padded alike.

        Args:
            images: As for `predict`.
            threshold: Slots with at least this presence are objects, in [0, 1].
            order: Of an image's objects: `presence`, the likeliest first; or `slots`, as the model has them.
            **options: As for `predict`.

        Returns:
            Vectors, presence, boxes and which rows are objects. Its `table()` has one row for each object of all
            images, for scikit-learn; `save` writes npz or parquet.

        Raises:
            ImageError: As for `predict`.
            ValueError: As for `predict`, or there is no such order.
        """
        from zoo.features import features

        return features(self.predict(images, **options), threshold, order)

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        name: str | None = None,
        weights_license: str = "apache-2.0",
        **facts: Any,
    ) -> "Path":
        """Write model.safetensors, config.json and a model card, from which `zoo.load(folder)` rebuilds the model.

        Args:
            folder: Made if need be.
            name: Of the checkpoint, for the card; null: the folder's.
            weights_license: Of the weights, as the Hugging Face hub abbreviates it.
            **facts: What else record and card should say, as JSON: `metrics`, a dict of numbers; `training`, a dict.
                What a loaded checkpoint says of itself is kept.

        Returns:
            The folder.
        """
        from zoo.sharing.hub import save_pretrained

        return save_pretrained(cast("ObjectModel", self), folder, name=name, weights_license=weights_license, **facts)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        token: str | None = None,
        revision: str | None = None,
        message: str | None = None,
        weights_license: str = "apache-2.0",
        **facts: Any,
    ) -> str:
        """Upload to the Hugging Face hub what `zoo.load(repo_id)` reads, with a model card.

        Args:
            repo_id: As in `user/name`; made if need be.
            private: Whether a new repository is.
            token: Of the account; null: who is logged in (`hf auth login`).
            revision: Branch, made if need be; null: the main one.
            message: Of the commit.
            weights_license: As for `save_pretrained`.
            **facts: As for `save_pretrained`.

        Returns:
            Where it is.
        """
        from zoo.sharing.hub import push_to_hub

        options: dict[str, Any] = {"private": private, "token": token, "revision": revision, "message": message}
        return push_to_hub(cast("ObjectModel", self), repo_id, weights_license=weights_license, **options, **facts)
