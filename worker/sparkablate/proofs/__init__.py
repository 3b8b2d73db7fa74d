"""What a loaded model is made to prove before anything is measured on it."""
