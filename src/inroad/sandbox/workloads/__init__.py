"""What runs in the sandbox's pods; each module is one program, started as `python -m`.

`web`: an HTTP server that tells where it runs and who asked. `echo`: TCP and UDP port 7 (RFC 862).
`gateway` and `local_mesh`: what service meshes do to names and connections; they run where a test wants them.
They import little: four web servers start with every sandbox.
"""
