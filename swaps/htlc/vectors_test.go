package htlc

// pinnedTweak is Tweak("out", Hash{1}).
const pinnedTweak = "02195a31d3c45d2dd9a79ba32f1c4e2f94cac77d8675144535c7f2563cf1e2c7d3"

type vector struct {
	hash   string
	expiry uint32
	// keys are sender internal, receiver internal, sender, receiver.
	keys            [4]string
	script, address string
}

// vectors were made once by loop v0.34.0-beta, swap.NewHtlcV3 with MuSig2
// v1.0.0rc2 on regtest, from keys and hashes drawn by SHA-256.
func vectors() []vector {
	return []vector{
		{"6ac73742db534bebccc9af1453c5637ee5bb5d7c9628ec2f26cf9777c89e96d8", 144, [4]string{"03afa77c0df30d60424e428c3bd13fd3f18202ce4605210cd1aa3819867871355f", "03574de8313c1f74072cd10057b734de069c9e436675ba23e5da9ea5f1fb370c7a", "03afa77c0df30d60424e428c3bd13fd3f18202ce4605210cd1aa3819867871355f", "03574de8313c1f74072cd10057b734de069c9e436675ba23e5da9ea5f1fb370c7a"}, "51204361dfefedfe686e064d20df4b8a994450f6f3c2e588487413653771778720df", "bcrt1pgdsalmldle5xupjdyr05hz5eg3g0du7zukyysaqnv5mhzau8yr0se9rry3"},
		{"af316ecb91a8ee7ae99210702b2d4758f30cdde3bf61e3d8e787d74681f90a6e", 850000, [4]string{"03680f4e357a27418d30b91b5ace0fbc9f3e872bfdf4fe9df73f03edb737cb8065", "024855a2705bce3d73c4f857dbfed24a10b645ad395c2b8233ca6ffc7c520a1e9a", "02dbebe93553729d43dd4158202e7dad908bfad7348a56edfca3a7b7093ea28227", "02cfcf8ccbd1e13ae4c5d451e5bda277adaf127491404db82dd3636895f1a4f586"}, "512005b04c0dc58bf409c2c17787b0a3b1060e3fac2ffaf192d07b1adf56716d066b", "bcrt1pqkcycrw9306qnskpw7rmpga3qc8rltp0ltce95rmrt04vutdqe4sxexmx7"},
		{"e7bf382f6e5915b3f88619b866223ebf1d51c4c5321cccde2e9ff700a3259086", 1, [4]string{"032642eb4280ed194e3712adaa1058c8783a6cbc81363b85600e96699683b565da", "0380421c19c79d2694f69dceff7f8c946c6a8d7582ba9657a985a11d597ca8b648", "026ec08982aadd5ceb9d6bf70b247dd01c0e95619a48fd48e6e7961b040c64f753", "03454ea2759ccf242de3d6b1070f83774bf25a130381d030b785ea7027a431dac0"}, "5120dceb1cff4a9cc04a34dca954acdb837d92a15bef98220f184ecaf759c94bd50e", "bcrt1pmn43el62nnqy5dxu4922ekur0kf2zkl0nq3q7xzwetm4nj2t658q5syvxd"},
	}
}
