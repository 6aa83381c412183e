"""Building blocks that papers share: plain functions and `nn.Module`s, importable without Lightning.

- Places: `boxes`, `affine`, `glimpses`, `wavefront`, `soft_argmax`, `heat_map`.
- Drawing: `renderer`, `additive`, `compositing`, `overlap`, `background`, `templates`, `blur`.
- Distributions: `distributions`, `categorical`, `mixture_prior`, `count_prior`, `nvil`, `agreement`.
- Networks: `blocks`, `recurrent`, `resnet`, `glimpse_decoder`, `glimpse_generator`, `positional_autoencoder`,
  `feature_maps`.
- Training: `schedules`, `noise`, `image_noise`, `precision`, `settings`.
"""
