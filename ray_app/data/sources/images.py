"""Image files in folders; the folder directly above a file, counted from the root, is its class.

`image` holds the file's bytes (the engine decodes them and rejects what is no image), `label` the class'
number in the sorted names. Files that lie in the root itself have no label.
"""

from ray_app.data.sources._folders import Folders


class Images(Folders):
    """Reads `root/class/file.png`, or `root/file.png` without labels."""

    kind = "images"
    column = "image"
    suffixes = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
