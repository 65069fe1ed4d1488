"""From what a client uploaded to arrays that a trainer maps: `ingest` reads, checks and decodes, once. Without torch.

fields.py    what is said beside the files; the id that both give together
budget.py    counts every byte that comes out of an archive
npz.py  idx.py  folders.py    one format each; nothing is ever unpickled, no path of an archive is ever opened
pixels.py  labels.py    what an image is, what a class is, who is held out
ingest.py    the way of an upload
staging.py   a folder for one request, gone with it
"""
