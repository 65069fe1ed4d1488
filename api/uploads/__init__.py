"""Uploads: validates and decodes them, once, into arrays that the trainer maps into memory. Without torch.

multipart.py   streams the request's body into files
staging.py     a temporary folder per request
fields.py      form fields of an upload; the dataset id, made of files and fields
ingest.py      detects the format, validates, writes the stored form
npz.py  idx.py  folders.py   one format each; nothing is unpickled, and no path in an archive is opened
archive.py  budget.py        safe reading of zips; the limit on unpacked bytes
pixels.py  labels.py         validation of images and of labels; the train/test split
"""
