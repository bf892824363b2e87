"""The HTTP front against a scripted router: real sockets, real clients, no provider."""
