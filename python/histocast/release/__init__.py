"""What makes a trained model a bundle to deploy: half precision and the model card."""
