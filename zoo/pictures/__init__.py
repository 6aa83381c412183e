"""Drawing: `draw` has sheets of scenes, boxes, masks and what a model imagines, `overlay` boxes on one's own images."""
