"""Behind the torch wall: how a picture is made. Knows torch, diffusers and transformers; no HTTP, no SQL, no queue."""
