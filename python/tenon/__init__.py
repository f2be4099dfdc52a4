from tenon import _C
