"""The networks of the book, in the forms that the papers prune; printing one shows its layers by name."""

from pruning_lib.companion.models._convnet import ConvNet
from pruning_lib.companion.models._lenet import LeNet5, LeNet300
from pruning_lib.companion.models._resnet import ResNet
from pruning_lib.companion.models._unet import UNet
from pruning_lib.companion.models._vgg import VGG16

__all__ = ["VGG16", "ConvNet", "LeNet5", "LeNet300", "ResNet", "UNet"]
