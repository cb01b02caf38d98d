"""Real Envoys configured from the Istio manifests that trustfed renders: an honest stand-in for what istiod does with them.

It translates the few fields that the proof in the data path needs, as istiod does, and refuses those that it does not know
(`Invalid`): what is left out of a translation would be a proof of nothing.
"""
