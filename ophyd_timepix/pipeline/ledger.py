"""The loss ledger: from what the board sent to the rows in the file, each step with its reasons.

`unaccounted` adds up the absolute differences of the balances below. It is 0, or the run says so.

====================================================  ==============================================================
every datagram sent by the board                      = received + malformed + dropped by the kernel + lost on the way
every word received                                   = words decoded (headers of chunks apart)
every word decoded                                    = hit | edge | timer | control | unknown | rejected with a reason
every pixel word sent by the board                    = pixel words decoded (when no datagram was lost)
every hit                                             = clustered | noise | too small | filtered
every centroid found                                  = a row written
====================================================  ==============================================================
"""
