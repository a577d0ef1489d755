"""The experiments that train one network, by name. A new one is a line here."""

from experiments import images, mnist
from experiments.lab.spec import Spec

EXPERIMENTS: dict[str, type[Spec]] = {
    cls.experiment: cls
    for cls in (
        mnist.MnistSup,
        mnist.MnistSemisup,
        images.Cifar10Sup,
        images.Cifar10Semisup,
        images.SvhnSemisup,
    )
}
