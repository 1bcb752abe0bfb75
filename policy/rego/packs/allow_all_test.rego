package postern.packs.allow_all_test

import data.postern.packs.allow_all

test_says_so if allow_all.permits_everything
