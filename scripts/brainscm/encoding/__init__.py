"""What a latent is: encoders of scans, behind one interface, and the file that keeps a fitted one."""
