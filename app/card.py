"""What a worker says of the model it holds: made where torch is, read where it is not."""

from pydantic import BaseModel, Field


class ModelCard(BaseModel):
    """A loaded model. Two workers with equal cards give equal results, up to what their devices round."""

    kind: str = Field(description="sdxl, sdxl_refiner, sd1 or sd2, told by its configs")
    prediction_type: str = Field(description="what the UNet predicts: epsilon, v_prediction or sample")
    autoencoder: str = Field(description="class in diffusers")
    latent_channels: int
    factor: int = Field(description="pixels per latent, along one axis")
    dtype: str
    autoencoder_dtype: str = Field(description="float32 where the autoencoder would overflow in half precision")
    unet_parameters: int
    autoencoder_parameters: int
    weights_sha256: str = Field(description="of the weight files of UNet and autoencoder")
    bundled: bool = Field(description="whether it is the checkpoint that comes with the package")
