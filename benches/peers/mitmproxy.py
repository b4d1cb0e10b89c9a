"""mitmproxy in Postern's place, as an addon. @WORDS@ are filled in by the rig.

Bodies are streamed, as mitmproxy's documentation advises for event streams: else each answer is held until its end.
"""


class Inject:
    def requestheaders(self, flow):
        flow.request.headers["Authorization"] = "@CREDENTIAL@"
        flow.request.stream = True

    def responseheaders(self, flow):
        flow.response.stream = True


addons = [Inject()]
